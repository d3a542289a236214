/* Why each edge of a derived cell is there: a card per edge with its history and its sentences. Needs charts.js before it;
   one file without imports or exports.

   mountReasons(host, [{title, note, sentences, chart: {data, layout}, now, since, near}]) -> {update, destroy} */
function mountReasons(host, reasons) {
  function update(next) {
    const text = JSON.stringify(next);
    if (text === host.dataset.made) return;
    host.dataset.made = text;
    const grid = document.createElement("div");
    grid.className = "lc-charts";
    host.replaceChildren(grid);
    for (const reason of next) {
      const card = document.createElement("section");
      card.className = "lc-card";
      const title = document.createElement("h3");
      title.textContent = reason.title;
      const box = document.createElement("div");
      const list = document.createElement("ul");
      list.className = "lc-reasons";
      for (const sentence of reason.sentences) {
        const item = document.createElement("li");
        item.textContent = sentence;
        list.append(item);
      }
      card.append(title, box, list);
      grid.append(card);
      drawChart(box, { ...reason.chart, label: `${reason.title}: weights over time` }).moveTo(reason.now);
    }
  }
  update(reasons);
  return { update, destroy: () => host.replaceChildren() };
}
