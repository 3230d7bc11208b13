"use strict";

// Two ways at a time: `under` is seen left of the line, `over` right of it.
for (const cases of document.querySelectorAll(".cases")) {
  const left = cases.querySelector("select.left");
  const right = cases.querySelector("select.right");
  const films = [...cases.querySelectorAll("video")].map((video) => film(video, left, right));

  const show = () => {
    for (const picture of cases.querySelectorAll(".stack img")) {
      picture.classList.toggle("under", picture.dataset.name === left.value);
      picture.classList.toggle("over", picture.dataset.name === right.value);
    }
    for (const row of cases.querySelectorAll(".figures tr")) {
      row.classList.toggle("shown", [left.value, right.value].includes(row.dataset.name));
    }
    films.forEach((each) => each.draw());
  };
  left.addEventListener("change", show);
  right.addEventListener("change", show);
  cases.querySelector(".difference").addEventListener("change", (event) => {
    cases.classList.toggle("different", event.target.checked);
  });

  for (const slider of cases.querySelectorAll(".slider")) {
    const move = () => slider.parentElement.style.setProperty("--at", `${slider.value}%`);
    slider.addEventListener("input", move);
    move(); // a page that is loaded again may keep the slider where it was
  }

  if (films.length) {
    const play = cases.querySelector(".play");
    const rate = cases.querySelector(".rate");
    const told = () => {
      const playing = films.some((each) => !each.video.paused);
      play.textContent = playing ? "Pause all" : "Play all";
      play.setAttribute("aria-pressed", String(playing));
    };
    const toggle = () => {
      const playing = films.some((each) => !each.video.paused);
      films.forEach((each) => (playing ? each.video.pause() : each.video.play()));
    };
    play.addEventListener("click", toggle);
    rate.addEventListener("change", () => films.forEach((each) => (each.video.playbackRate = Number(rate.value))));
    for (const each of films) {
      each.video.addEventListener("play", told);
      each.video.addEventListener("pause", told);
    }
    for (const slider of cases.querySelectorAll(".slider, .frame")) {
      slider.addEventListener("keydown", (event) => {
        if (event.key === " ") {
          event.preventDefault();
          toggle();
        }
      });
    }
  }
  show();
}

// One film holds all the clips of a case side by side. Both canvases are drawn from the same frame of it.
function film(video, left, right) {
  const stack = video.parentElement;
  const under = stack.querySelector(".under").getContext("2d");
  const over = stack.querySelector(".over").getContext("2d");
  const frame = stack.parentElement.querySelector(".frame");
  const { fps, frames, width, height } = Object.fromEntries(
    Object.entries(video.dataset).map(([name, value]) => [name, Number(value)]),
  );
  const draw = () => {
    for (const [canvas, names] of [[under, left], [over, right]]) {
      canvas.drawImage(video, names.selectedIndex * width, 0, width, height, 0, 0, width, height);
    }
    if (!video.paused) frame.value = Math.min(frames - 1, Math.floor(video.currentTime * fps + 0.01));
  };
  const next = () => {
    draw();
    if ("requestVideoFrameCallback" in video) video.requestVideoFrameCallback(next);
    else requestAnimationFrame(next);
  };
  frame.addEventListener("input", () => {
    video.pause();
    video.currentTime = (Number(frame.value) + 0.5) / fps; // the middle of the frame's time: its edges are rounded
  });
  video.addEventListener("seeked", draw);
  video.addEventListener("error", () => stack.classList.add("unplayable"));
  video.addEventListener("loadeddata", next, { once: true });
  if (video.readyState >= 2) next();
  return { video, draw };
}
