"use strict";
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
const make = (tag, text, className = "") => Object.assign(document.createElement(tag), {textContent: text, className});

function pressable(element, action) {
  element.tabIndex = 0;
  element.setAttribute("role", "button");
  element.addEventListener("click", action);
  element.addEventListener("keydown", event => ["Enter", " "].includes(event.key) && (event.preventDefault(), action()));
}

// Tables are sorted by a click on a head: descending, ascending, and as the network runs.
const NEXT = {none: "descending", descending: "ascending", ascending: "none"};
function number(cell) {
  const found = cell.textContent.replace(/−/g, "-").match(/[+-]?\d[\d,]*(\.\d+)?(e[+-]?\d+)?/i);
  return found ? parseFloat(found[0].replace(/,/g, "")) : NaN;
}
for (const table of all("table.numbers:not(.grouped)")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells], groups = [];
  for (const row of body.rows)  // the branches of a block go where it goes
    if (row.classList.contains("branch")) groups.at(-1).push(row); else groups.push([row]);
  heads.forEach((head, column) => {
    const button = make("button", "", "sort");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const order = NEXT[head.getAttribute("aria-sort") || "none"], sign = order === "descending" ? -1 : 1;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      if (order !== "none") head.setAttribute("aria-sort", order);
      const compare = ([a], [b]) => {
        if (column === 0) return sign * a.cells[0].textContent.localeCompare(b.cells[0].textContent);
        const [x, y] = [number(a.cells[column]), number(b.cells[column])];
        return isNaN(x) || isNaN(y) ? isNaN(x) - isNaN(y) : sign * (x - y);
      };
      body.append(...(order === "none" ? groups : [...groups].sort(compare)).flat());
    });
  });
}

// A click on the name of a layer shows its column of pictures.
const pictures = document.querySelector("table.pictures");
const columns = pictures ? [...pictures.tHead.rows[0].cells].map(head => head.textContent) : [];
function show(column) {
  all(".chosen").forEach(cell => cell.classList.remove("chosen"));
  const rows = [...pictures.rows].filter(row => row.cells.length > column);
  rows.forEach(row => row.cells[column].classList.add("chosen"));
  pictures.closest("section").scrollIntoView();
  const head = rows[0].cells[column];
  pictures.parentNode.scrollLeft = head.offsetLeft - pictures.parentNode.clientWidth / 2;
}
for (const name of all("table.numbers tr:not(.branch) .name, ol.bars .name, ol.bare .name")) {
  const column = columns.indexOf(name.textContent);
  if (column < 0) continue;  // a branch has no pictures of its own
  name.title = "show its pictures";
  pressable(name, () => show(column));
}

// A click on a cell of a confusion table shows the images that it counts.
function images(cell, layer, label, shown) {
  const box = make("div", "", "cases"), listed = (cell.dataset.cases || "").split(" ").filter(Boolean);
  box.append(make("p", `${label} shown as ${shown} at ${layer}: ${cell.textContent.trim()} in all`));
  const examples = all(".pictures tbody[data-label]"), first = listed.map(image => examples.find(e => e.dataset.image === image));
  for (const example of first.filter(Boolean)) {
    const figure = make("figure", "");
    figure.style.setProperty("--strip", example.style.getPropertyValue("--strip"));
    const [natural, attacked] = ["natural", "adversarial"].map(kind => example.querySelector(`tr.${kind}`));
    const place = columns.indexOf(layer);
    for (const picture of [natural.cells[1], attacked.cells[1], natural.cells[place], attacked.cells[place]])
      figure.append(picture.querySelector("img, .cut").cloneNode());
    figure.append(make("figcaption", `test image ${example.dataset.image}: natural, attacked, and their explanations`));
    box.append(figure);
  }
  if (listed.length) {
    const line = make("p", `Test images ${listed.join(", ")}. All of them as pictures: `);
    line.append(make("code", `interpretgan explain RUN --images ${listed.join(",")}`));
    box.append(line);
  }
  return box;
}
for (const table of all("table.heat")) {
  const heads = [...table.tHead.rows[0].cells].map(cell => cell.textContent);
  for (const cell of all("td:not(.none)", table)) {
    const label = cell.parentNode.cells[0].textContent;
    pressable(cell, () => {
      const details = table.closest("details");
      all(".cases", details).forEach(box => box.remove());
      details.append(images(cell, table.dataset.layer, label, heads[cell.cellIndex]));
    });
  }
}

// Choices above the gallery leave the images of a class, of a change or of a layer.
const gallery = document.getElementById("gallery"), PAGE = 12;
if (gallery) {
  const bodies = all("tbody", gallery), form = gallery.querySelector("form"), more = gallery.querySelector("button.more");
  const chosen = all("select", form);
  let limit = PAGE;
  const filter = () => {
    const found = bodies.filter(body => chosen.every(({name, value}) => value === "" || body.dataset[name] === value));
    bodies.forEach(body => body.hidden = !found.slice(0, limit).includes(body));
    form.querySelector("output").textContent = `${found.length} image${found.length === 1 ? "" : "s"}`;
    more.hidden = found.length <= limit;
    more.textContent = `Show ${Math.min(2 * PAGE, found.length - limit)} more of ${found.length}`;
  };
  chosen.forEach(select => select.addEventListener("change", () => (limit = PAGE, filter())));
  more.addEventListener("click", () => (limit += 2 * PAGE, filter()));
  form.hidden = false;
  filter();
}
