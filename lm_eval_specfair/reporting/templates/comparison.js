"use strict";
// Column headers become buttons that sort. Without this script the table stands as it was ranked.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.textContent = "";
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending";
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const rows = [...body.rows].sort((one, other) => {
        const [a, b] = [key(one), key(other)];
        const byNumber = Number(a) - Number(b);
        const order = a !== "" && b !== "" && !Number.isNaN(byNumber) ? byNumber : a.localeCompare(b);
        return up ? order : -order;
      });
      body.append(...rows);
    });
  });
}
