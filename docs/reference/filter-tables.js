// On a page with <div class="filter-tables"></div>: a box there hides the table rows that lack a word of what is typed.
document.querySelectorAll(".filter-tables").forEach((place) => {
  const box = document.createElement("input");
  box.type = "search";
  box.placeholder = "Filter the rows, e.g. flux image";
  box.setAttribute("aria-label", "Filter the rows of all tables on this page");
  box.style.cssText = "width: 100%; padding: .5em; border: 1px solid; font: inherit; color: inherit; background: none";
  const count = document.createElement("p");
  count.setAttribute("aria-live", "polite");
  const tables = [...document.querySelectorAll("table")].filter(
    (table) => place.compareDocumentPosition(table) & Node.DOCUMENT_POSITION_FOLLOWING,
  );
  const rows = tables.flatMap((table) => [...table.querySelectorAll("tbody tr")]);
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach((row) => {
      const text = row.textContent.toLowerCase();
      row.style.display = words.every((word) => text.includes(word)) ? "" : "none";
    });
    const shown = rows.filter((row) => !row.style.display).length;
    count.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
  });
  place.replaceChildren(box, count);
});
