"use strict";

// Two ways at a time: `under` is seen left of the line, `over` right of it.
for (const cases of document.querySelectorAll(".cases")) {
  const left = cases.querySelector("select.left");
  const right = cases.querySelector("select.right");
  const films = [...cases.querySelectorAll("video")].map((video) => film(video, left, right));
  for (const figure of cases.querySelectorAll(".case")) if (!figure.querySelector("video")) still(figure);

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
    const told = () => label(play, films.some((each) => !each.video.paused), " all");
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

function label(button, playing, what) {
  button.textContent = (playing ? "Pause" : "Play") + what;
  button.setAttribute("aria-pressed", String(playing));
}

// Draw a case's pictures in a row, and the difference of each from the first; `paint(context, name)` draws one of them.
function drawCells(figure, paint) {
  for (const cells of document.querySelectorAll(`.cells[data-key="${figure.dataset.key}"]`)) {
    for (const canvas of cells.querySelectorAll("canvas")) {
      const context = canvas.getContext("2d");
      context.globalCompositeOperation = "source-over";
      if (canvas.classList.contains("apart")) {
        paint(context, cells.dataset.from);
        context.globalCompositeOperation = "difference";
      }
      paint(context, canvas.dataset.way);
    }
  }
}

// A case of pictures: its rows of pictures are drawn once.
function still(figure) {
  const pictures = new Map([...figure.querySelectorAll(".stack img")].map((picture) => [picture.dataset.name, picture]));
  const paint = (context, name) => context.drawImage(pictures.get(name), 0, 0, context.canvas.width, context.canvas.height);
  Promise.all([...pictures.values()].map((picture) => picture.decode())).then(() => drawCells(figure, paint));
}

// One film holds all the clips of a case side by side. Both canvases are drawn from the same frame of it.
function film(video, left, right) {
  const stack = video.parentElement;
  const figure = video.closest(".case");
  const under = stack.querySelector(".under").getContext("2d");
  const over = stack.querySelector(".over").getContext("2d");
  const frame = stack.parentElement.querySelector(".frame");
  const { fps, frames, width, height } = Object.fromEntries(
    Object.entries(video.dataset).map(([name, value]) => [name, Number(value)]),
  );
  const names = [...left.options].map((option) => option.value);
  const paint = (context, name) => {
    context.drawImage(video, names.indexOf(name) * width, 0, width, height, 0, 0, width, height);
  };
  const draw = () => {
    paint(under, left.value);
    paint(over, right.value);
    drawCells(figure, paint);
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
  for (const sheet of document.querySelectorAll(".sheet")) {
    if (!sheet.querySelector(`[data-key="${figure.dataset.key}"]`)) continue;
    const play = sheet.querySelector(".play");
    play.addEventListener("click", () => (video.paused ? video.play() : video.pause()));
    for (const event of ["play", "pause"]) video.addEventListener(event, () => label(play, !video.paused, ""));
  }
  video.addEventListener("error", () => stack.classList.add("unplayable"));
  video.addEventListener("loadeddata", next, { once: true });
  if (video.readyState >= 2) next();
  return { video, draw };
}
