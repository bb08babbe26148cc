document.documentElement.classList.add("js");
addEventListener("DOMContentLoaded", () => {
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  const MOST = 300;
  const numeric = (text) => (text === "–" || text === "" ? null : parseFloat(text.replace(/,/g, "").replace("−", "-")));
  for (const table of all("table.sortable")) for (const head of all("thead th", table)) head.firstElementChild.onclick = () => {
    const isNumber = head.classList.contains("n"), column = head.cellIndex, body = table.tBodies[0];
    const up = head.getAttribute("aria-sort") === "descending" || (!head.hasAttribute("aria-sort") && !isNumber);
    for (const other of all("thead th", table)) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const keyed = [...body.rows].map((row) => [isNumber ? numeric(row.cells[column].textContent.trim()) : row.cells[column].textContent.trim() || null, row]);
    keyed.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null) : (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1));
    body.append(...keyed.map(([, row]) => row));
  };
  const words = document.getElementById("find"), kind = document.getElementById("kind");
  if (words) words.oninput = kind.onchange = () => {
    const rows = all("#symbols tbody tr"), text = words.value.trim().toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(text) || !(kind.value === "" || row.dataset.verdict === kind.value);
    document.getElementById("found").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} symbols`;
  };
  for (const browser of all(".browse")) {
    const body = browser.querySelector("tbody"), said = browser.querySelector(".said-count"), input = browser.querySelector("input");
    const heads = all("thead th", browser), selects = all("select", browser);
    let data = null;
    const show = () => {
      data ??= JSON.parse(browser.querySelector("script").textContent);
      const { lists, columns } = data, size = columns[0].length;
      const cell = (column, row) => (lists[column] ? lists[column][columns[column][row]] : columns[column][row]);
      const text = input.value.trim().toLowerCase();
      const asked = selects.filter((select) => select.value !== "").map((select) => [+select.dataset.column, select.value]);
      const exact = text !== "" && (lists[0] ?? columns[0]).some((symbol) => symbol.toLowerCase() === text);
      const found = [];
      for (let row = 0; row < size; row++) {
        if (!asked.every(([column, value]) => cell(column, row) === value)) continue;
        if (exact ? cell(0, row).toLowerCase() !== text : text && !columns.some((_, column) => cell(column, row).toLowerCase().includes(text))) continue;
        found.push(row);
      }
      body.replaceChildren(...found.slice(0, MOST).map((row) => {
        const line = document.createElement("tr");
        heads.forEach((head, column) => {
          const box = document.createElement(column ? "td" : "th");
          if (!column) box.scope = "row";
          box.className = head.className;
          box.textContent = cell(column, row);
          line.append(box);
        });
        return line;
      }));
      const cut = found.length > MOST ? `, the first ${MOST} shown` : "";
      said.textContent = `${found.length.toLocaleString("en")} of ${size.toLocaleString("en")}${cut}`;
    };
    input.oninput = show;
    for (const select of selects) select.onchange = show;
    browser.ask = (text) => { input.value = text; for (const select of selects) select.value = ""; show(); };
  }
  addEventListener("click", (event) => {
    const button = event.target.closest("button.jump");
    if (!button) return;
    document.querySelector("#findings .browse").ask(button.textContent.trim());
    document.getElementById("findings").scrollIntoView();
  });
});
