"use strict";
// Every table of class "sortable": its first body is sorted by the column whose button is pressed.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const said = table.parentElement.parentElement.querySelector("[role=status]");
  const key = (row, column) => row.cells[column].dataset.value ?? "";
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const isText = head.dataset.kind === "text";
      const first = isText ? "ascending" : "descending";
      const other = isText ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...body.rows].sort((a, b) => {
        const one = key(a, column), two = key(b, column);
        if (one === "" || two === "") return (one === "") - (two === "");
        return sign * (isText ? one.localeCompare(two) : Number(one) - Number(two));
      });
      body.append(...rows);
      for (const each of heads) each.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const name = button.textContent.trim().replace(/\s+/g, " ");
      if (said) said.textContent = `Sorted by ${name}, ${order}.`;
    });
  });
}
