"use strict";
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const show = (theme) => {
    root.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `switch to the ${theme === "dark" ? "light" : "dark"} theme`);
  };
  show(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  button.addEventListener("click", () => show(root.dataset.theme === "dark" ? "light" : "dark"));

  // A cell sorts by its data-sort attribute where it has one, else by its text; numbers before words, gaps last.
  const key = (row, column) => {
    const cell = row.cells[column];
    const text = (cell.dataset.sort ?? cell.textContent).trim();
    const number = Number(text);
    return { text, number, missing: text === "" || text === "nan", numeric: text !== "" && !Number.isNaN(number) };
  };
  const compare = (a, b, sign) => {
    if (a.missing || b.missing) return Number(a.missing) - Number(b.missing);
    if (a.numeric && b.numeric) return sign * (a.number - b.number);
    if (a.numeric !== b.numeric) return a.numeric ? -1 : 1;
    return sign * a.text.localeCompare(b.text, undefined, { numeric: true });
  };
  const sort = (table, header) => {
    const column = header.cellIndex;
    const descending = header.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, key: key(row, column) }));
    rows.sort((a, b) => compare(a.key, b.key, descending ? -1 : 1));
    body.append(...rows.map(({ row }) => row));
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    for (const header of table.tHead.rows[0].cells) {
      header.tabIndex = 0;
      header.addEventListener("click", () => sort(table, header));
      header.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(table, header); }
      });
    }
  }
})();
