// Tables whose headings sort.
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    const value = row => { const cell = row.cells[column]; return (cell.dataset.sort ?? cell.textContent).trim(); };
    const sort = () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("thead th").forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const number = text => /^[-+]?\.?\d/.test(text) ? parseFloat(text) : NaN;  // of "+3.1 [1.2, 5.0]", too
      const compare = (a, b) => number(a) - number(b) || a.localeCompare(b, "en", { numeric: true });
      for (const body of table.tBodies)  // rows stay below their heading
        body.append(...[...body.rows].filter(row => !row.matches(".heading")).sort((a, b) => compare(value(a), value(b)) * (up ? 1 : -1)));
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
  });
}
