// The page's script: the filter of the trees, and arrow keys between them. Everything else works without it.

export const SCRIPT = `
const form = document.getElementById('filter');
if (form) {
  const trees = [...document.querySelectorAll('.tree')];
  const { model, tag, text, open, close, shown } = form.elements;
  const words = new Map(trees.map((tree) => [tree, tree.querySelector('summary').textContent.toLowerCase()]));
  const visible = () => trees.filter((tree) => !tree.hidden);
  const filter = () => {
    const wanted = text.value.toLowerCase().split(/\\s+/);
    for (const tree of trees) {
      const { model: of, tags } = tree.dataset;
      tree.hidden = !(
        (model.value === '' || of === model.value) &&
        (tag.value === '' || tags.split(' ').includes(tag.value)) &&
        wanted.every((word) => words.get(tree).includes(word))
      );
    }
    shown.value = visible().length + ' of ' + trees.length + ' trees';
  };
  form.addEventListener('input', filter);
  form.addEventListener('submit', (event) => event.preventDefault());
  open.addEventListener('click', () => visible().forEach((tree) => (tree.open = true)));
  close.addEventListener('click', () => visible().forEach((tree) => (tree.open = false)));
  document.getElementById('trees').addEventListener('keydown', (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const tree = event.target.matches('.tree > summary') && event.target.parentElement;
    if (!step || !tree) return;
    const list = visible();
    const next = list[list.indexOf(tree) + step];
    if (next) {
      event.preventDefault();
      next.firstElementChild.focus();
    }
  });
  form.hidden = false;
  filter();
}
`;
