// The theme lets the keyboard reach the blocks that scroll. It measures them on loading and when
// the window changes, but what is folded has no width then: have it measure again on unfolding.
document.addEventListener("toggle", () => window.dispatchEvent(new Event("resize")), true);

// A claim is a sentence: it may run over several lines, as no other printed text may.
document.addEventListener("DOMContentLoaded", () => {
  for (const pre of document.querySelectorAll(".cell_output pre"))
    pre.classList.toggle("claims", /^[✓○] /.test(pre.textContent));
});
