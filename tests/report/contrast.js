// The texts that do not stand out from what is behind them, as WCAG's AA has it, with their contrast.
() => {
  const bright = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => (c <= .04 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4))
    .reduce((sum, c, number) => sum + c * [.2126, .7152, .0722][number], 0);
  const parts = (colour) => colour.match(/[\d.]+/g).map(Number);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const [r, g, b, alpha = 1] = parts(getComputedStyle(each).backgroundColor);
      if (alpha > 0) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const weak = [];
  for (const element of document.querySelectorAll("body *")) {
    if (![...element.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim())) continue;
    if (!element.checkVisibility() || element.closest(".dim, script, style")) continue;
    const style = getComputedStyle(element);
    const [one, other] = [bright(parts(element.closest("svg") ? style.fill : style.color)), bright(behind(element))];
    const ratio = (Math.max(one, other) + .05) / (Math.min(one, other) + .05);
    if (ratio < 4.5) weak.push([element.textContent.slice(0, 30), ratio.toFixed(2)]);
  }
  return weak;
}
