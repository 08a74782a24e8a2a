(() => {
  'use strict';
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };
  const SVG = 'http://www.w3.org/2000/svg';
  const main = document.getElementById('main');

  const rateOf = point => point[4] === null ? null : point[4] / 1e6;
  // The attempt in progress: samples of the migration, and windows of a client's probe. A value that was not
  // measured is null.
  const LANES = [
    { title: 'Memory left, MB', curves: [['left', point => point[1] / 1e6]] },
    { title: 'Rates, MB/s', curves: [['sent', point => point[3] / 8], ['dirtied', rateOf]] },
    { title: 'Throttling of the CPUs, %', curves: [['throttling', point => point[5]]] },
    {
      title: 'Round trips of a client, ms',
      curves: [['longest', window => window[4] || null], ['median', window => window[5] || null]],
      ofClient: true,
      isLog: true,
    },
    {
      title: 'Requests of a client without a reply, %',
      curves: [['lost', window => window[3] / window[2] * 100]],
      ofClient: true,
    },
  ];
  const WIDTH = 1000;
  const HEIGHT = 100;
  const MOST = 500;
  const digits = value => value >= 100 ? value.toFixed(0) : value.toFixed(1);
  const heading = make('h2', { id: 'live-heading', textContent: 'Attempt in progress' });
  const name = make('p', { className: 'live-name' });
  name.setAttribute('role', 'status');
  const figures = make('p', { className: 'readout' });
  const lanes = LANES.map(lane => {
    const svg = document.createElementNS(SVG, 'svg');
    svg.setAttribute('class', 'curves');
    svg.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute('preserveAspectRatio', 'none');
    svg.setAttribute('aria-hidden', 'true');
    const curves = lane.curves.map(([, value], at) => {
      const path = document.createElementNS(SVG, 'path');
      path.setAttribute('class', `c${at}`);
      svg.append(path);
      return { path, value };
    });
    const keys = lane.curves.map(([label], at) =>
      make('span', {}, make('i', { className: `key c${at}` }), label));
    const most = make('span');
    const plane = make('div', { className: 'plane' }, svg);
    const box = make('div', { className: 'lane' }, make('b', {}, lane.title), ...keys, most, plane);
    return { ...lane, curves, most, box };
  });
  const strip = make('section', { id: 'live' }, heading, name, figures, ...lanes.map(lane => lane.box));
  strip.setAttribute('aria-labelledby', 'live-heading');
  main.prepend(strip);
  const say = text => { name.textContent = text; };
  let points = [];
  // By the times at which they began: a reply that arrives late changes a window.
  let windows = new Map();
  let isDue = false;

  // Of each interval, the lowest and the highest point stay.
  const thin = (list, value, most = MOST) => {
    if (list.length <= most) return list;
    const size = Math.ceil(list.length / most * 2);
    const kept = [];
    for (let from = 0; from < list.length; from += size) {
      const part = list.slice(from, from + size);
      const low = part.reduce((a, b) => value(b) < value(a) ? b : a);
      const high = part.reduce((a, b) => value(b) > value(a) ? b : a);
      kept.push(...(low[0] < high[0] ? [low, high] : [high, low]));
    }
    return kept;
  };
  // Parts without a gap between two windows. A gap is where there is no value, or no window.
  const parts = (list, value) => {
    const found = [];
    let last = null;
    for (const window of list) {
      const isValue = value(window) !== null;
      if (isValue) {
        const isNext = last && window[0] - last[0] - last[1] < last[1] / 2;
        if (!isNext) found.push([]);
        found.at(-1).push(window);
      }
      last = isValue ? window : null;
    }
    return found;
  };
  // Parts without a point that has no value.
  const known = (list, value) => {
    const found = [[]];
    for (const point of list) {
      if (value(point) !== null) found.at(-1).push(point);
      else if (found.at(-1).length) found.push([]);
    }
    return found.filter(part => part.length);
  };
  const number = value => String(Number(value.toPrecision(2)));
  // Each value holds for the width of its window.
  const drawClient = ({ curves, most, box, isLog }, shown, end) => {
    const lines = curves.map(({ path, value }) => ({ path, value, parts: parts(shown, value) }));
    const values = lines.flatMap(line => line.parts.flat().map(line.value));
    const peak = values.reduce((a, b) => Math.max(a, b), 0);
    // As long as nothing is lost, there is nothing to show of losses.
    box.hidden = peak === 0;
    if (box.hidden) return;
    const least = values.reduce((a, b) => Math.min(a, b), peak);
    const place = value => isLog ? Math.log10(value) : value;
    const low = isLog ? Math.floor(place(least)) : 0;
    const high = isLog ? Math.max(low + 1, Math.ceil(place(peak))) : 100;
    most.textContent = isLog ? `from ${number(10 ** low)} to ${number(10 ** high)}` : 'up to 100';
    const x = ms => (ms / end * WIDTH).toFixed(1);
    const y = value => (HEIGHT - (place(value) - low) / (high - low) * HEIGHT).toFixed(1);
    lines.forEach(({ path, value, parts }) => {
      const count = parts.flat().length;
      path.setAttribute('d', parts.map(part => {
        const kept = thin(part, value, Math.max(2, MOST * part.length / count));
        const steps = kept.slice(1).map(window => `${x(window[0])}V${y(value(window))}`);
        const [from, duration] = part.at(-1);
        return `M${x(part[0][0])} ${y(value(kept[0]))}H${[...steps, x(from + duration)].join('H')}`;
      }).join(''));
    });
  };
  const draw = () => {
    isDue = false;
    const last = points.at(-1);
    const hasPoints = points.length > 0;
    const shown = [...windows.values()].filter(([from, duration]) => from + duration > 0);
    shown.sort((a, b) => a[0] - b[0]);
    const lastWindow = shown.at(-1) ?? [0, 0];
    // The probe goes on when the migration has ended.
    const end = Math.max(last?.[0] ?? 0, lastWindow[0] + lastWindow[1], 1);
    figures.textContent = !hasPoints ? '' : [
      `${(last[0] / 1000).toFixed(1)} s since the start`,
      `pass ${last[6]}`,
      `${digits(last[1] / 1e6)} MB left`,
      `${digits(last[2] / 1e6)} MB sent`,
      `${digits(last[3] / 8)} MB/s`,
    ].join(', ');
    strip.dataset.samples = points.length;
    strip.dataset.windows = shown.length;
    lanes.forEach(lane => {
      if (lane.ofClient) {
        drawClient(lane, shown, end);
        return;
      }
      const { curves, most, box } = lane;
      box.hidden = !hasPoints;
      if (!hasPoints) return;
      const peaks = curves.map(({ value }) => points.reduce((a, b) => Math.max(a, value(b)), 0));
      const highest = Math.max(1, ...peaks);
      most.textContent = `up to ${digits(highest)}`;
      curves.forEach(({ path, value }) => {
        const at = point => {
          const x = point[0] / end * WIDTH;
          return `${x.toFixed(1)} ${(HEIGHT - value(point) / highest * HEIGHT).toFixed(1)}`;
        };
        const share = part => Math.max(2, MOST * part.length / points.length);
        path.setAttribute('d', known(points, value).map(part =>
          `M${thin(part, value, share(part)).map(at).join('L')}`).join(''));
      });
    });
  };
  const redraw = () => {
    if (!isDue) requestAnimationFrame(draw);
    isDue = true;
  };

  // The report: sections that have changed are replaced, and keep what the reader has opened and typed.
  let shown = shownVersion;
  let wanted = shown;
  let update = null;
  const sources = new Map(all('article > section', main).map(section => [section.id, null]));
  const titleOf = details => details.id || details.querySelector('summary').textContent;
  const state = section => ({
    open: all('details[open]', section).map(titleOf),
    filters: all('[data-filter]', section).map(input => [input.dataset.filter, input.value]),
    sorted: all('th[aria-sort]', section).map(head =>
      [head.closest('table').id, head.cellIndex, head.getAttribute('aria-sort')]),
    focus: section.contains(document.activeElement) ? document.activeElement.dataset.filter : undefined,
  });
  const restore = (section, { open, filters, sorted, focus }) => {
    all('details', section).forEach(details => {
      if (open.includes(titleOf(details))) details.open = true;
    });
    window.prepareReport(section);
    sorted.forEach(([table, column, direction]) => {
      const button = all(`[id="${table}"] thead th`, section)[column]?.querySelector('button');
      button?.click();
      if (direction === 'descending') button?.click();
    });
    filters.forEach(([table, value]) => all('[data-filter]', section).forEach(input => {
      if (input.dataset.filter !== table || !value) return;
      input.value = value;
      input.dispatchEvent(new Event('input', { bubbles: true }));
    }));
    if (focus) all('[data-filter]', section).find(input => input.dataset.filter === focus)?.focus();
  };
  const put = text => {
    const fresh = new DOMParser().parseFromString(text, 'text/html');
    const ids = all('article > section', fresh).map(section => section.id);
    const isSame = ids.join() === [...sources.keys()].join();
    if (!isSame) {
      const states = new Map(all('article > section', main).map(section => [section.id, state(section)]));
      all('article', main).forEach(article => article.remove());
      main.append(...all('article', fresh).map(article => document.adoptNode(article)));
      all('article > section', main).forEach(section =>
        restore(section, states.get(section.id) ?? { open: [], filters: [], sorted: [] }));
      sources.clear();
    }
    all('article > section', isSame ? fresh : main).forEach(section => {
      // What the reader sees has been prepared since, so it is compared with what was last put in.
      const source = isSame ? section.outerHTML : null;
      if (isSame && source !== sources.get(section.id)) {
        const old = document.getElementById(section.id);
        const kept = state(old);
        old.replaceWith(document.adoptNode(section));
        restore(document.getElementById(section.id), kept);
      }
      sources.set(section.id, source);
    });
    document.title = fresh.title;
  };
  const refresh = async () => {
    while (shown !== wanted) {
      const target = wanted;
      try {
        const response = await fetch(location.pathname, { cache: 'no-store' });
        if (!response.ok) throw new Error(await response.text());
        const text = await response.text();
        put(text);
        // The folder may have changed between the news and the answer, and news may have come meanwhile.
        shown = response.headers.get('x-report-version');
        if (wanted === target) wanted = shown;
        strip.dataset.version = shown;
      } catch {
        if (strip.dataset.ended) return;
        await new Promise(resolve => setTimeout(resolve, 1000));
      }
    }
  };

  const source = new EventSource('events');
  source.onmessage = async event => {
    const news = JSON.parse(event.data);
    if (news.kind === 'page') {
      wanted = news.version;
      update = (update ?? Promise.resolve()).then(refresh);
    } else if (news.kind === 'attempt') {
      points = [];
      windows = new Map();
      heading.hidden = false;
      strip.hidden = false;
      say(news.name ?? 'Between two attempts');
      redraw();
    } else if (news.kind === 'samples') {
      for (const point of news.points) points.push(point);
      redraw();
    } else if (news.kind === 'client') {
      for (const window of news.windows) windows.set(window[0], window);
      redraw();
    } else if (news.kind === 'end') {
      points = [];
      windows = new Map();
      redraw();
      heading.hidden = true;
      say('The run has ended. This page does not change any more.');
      strip.dataset.ended = 'yes';
      await update;
      source.close();
    }
  };
  source.onerror = () => say('There is no connection to testbed. Trying again …');
})();
