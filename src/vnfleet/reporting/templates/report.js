document.documentElement.classList.add("js");
addEventListener("DOMContentLoaded", () => {
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  for (const button of all("button.more")) button.onclick = () => {
    const open = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", open);
    for (const row of all("tr.year", button.closest("tbody"))) row.classList.toggle("shut", !open);
  };
  const value = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = parseFloat(text.replace(/,/g, "").replace("−", "-"));
    return text === "–" ? null : Number.isNaN(number) ? text.toLowerCase() : number;
  };
  for (const table of all("table.sortable")) for (const head of all("thead th", table)) head.firstElementChild.onclick = () => {
    const up = head.getAttribute("aria-sort") === "descending" || (!head.hasAttribute("aria-sort") && !head.classList.contains("n"));
    for (const other of all("thead th", table)) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0], column = head.cellIndex;
    body.append(...[...body.rows].sort((a, b) => {
      const x = value(a, column), y = value(b, column);
      if (x === null || y === null) return (x === null) - (y === null);
      return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
    }));
  };
  const words = document.getElementById("find"), kind = document.getElementById("kind");
  if (words) words.oninput = kind.onchange = () => {
    const rows = all("#symbols tbody tr"), text = words.value.trim().toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(text) || !(kind.value === "" || row.dataset.serving === kind.value);
    document.getElementById("found").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} symbols`;
  };
});
