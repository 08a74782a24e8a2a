'use strict';
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };
  document.documentElement.classList.add('script');

  // Tables: sorting, filtering, CSV.
  const shown = cell => cell.textContent.trim();
  const key = cell => {
    const text = cell.dataset.v ?? shown(cell);
    const number = parseFloat(text.replace(/^[>\s]+/, ''));
    return text === '' || text === '-' ? null : Number.isNaN(number) ? text : number;
  };
  const compare = (a, b) => {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a === 'number' && typeof b === 'number') return a - b;
    return String(a).localeCompare(String(b));
  };
  const sort = head => {
    const down = head.getAttribute('aria-sort') === 'ascending';
    const body = head.closest('table').tBodies[0];
    const rows = [...body.rows].map(row => [key(row.cells[head.cellIndex]), row]);
    rows.sort(([a], [b]) => a === null || b === null || !down ? compare(a, b) : compare(b, a));
    all('th', head.parentNode).forEach(other => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    body.append(...rows.map(([, row]) => row));
  };
  const filter = input => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...document.getElementById(input.dataset.filter).tBodies[0].rows];
    rows.forEach(row => {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
    });
    const left = rows.filter(row => !row.hidden).length;
    all('.shown', input.closest('.tools')).forEach(status => {
      status.textContent = words.length ? `${left} of ${rows.length} rows` : '';
    });
  };
  const quoted = text => /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  const save = (name, rows) => {
    const text = rows.map(row => row.map(quoted).join(',') + '\r\n').join('');
    const url = URL.createObjectURL(new Blob([text], { type: 'text/csv' }));
    make('a', { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  };
  const saveTable = table => {
    const rows = [...table.rows].filter(row => !row.hidden);
    save(`${table.id}.csv`, rows.map(row => [...row.cells].map(shown)));
  };
  const sortable = table => all('thead th', table).forEach(head => {
    const isPicture = table.tBodies[0].rows[0]?.cells[head.cellIndex]?.querySelector('svg');
    if (!head.textContent || isPicture) return;
    const button = make('button', { type: 'button' });
    button.append(...head.childNodes);
    head.append(button);
  });

  // Marks: one of each figure is in the order of the tab key, arrows move on.
  const marksOf = figure => all('.mark[role], .sign[role]', figure);
  const say = (readout, text) => {
    readout.classList.remove('hint');
    readout.textContent = text;
  };
  const tell = mark => {
    const readout = mark.closest('section').querySelector('.readout');
    if (readout) say(readout, mark.getAttribute('aria-label'));
  };
  const move = (mark, by) => {
    const marks = marksOf(mark.closest('.area'));
    const next = marks[(marks.indexOf(mark) + by + marks.length) % marks.length];
    marks.forEach(other => other.setAttribute('tabindex', other === next ? 0 : -1));
    next.focus();
  };

  // Timelines.
  const SVG = 'http://www.w3.org/2000/svg';
  // Returns the points of a curve: time, value, and whether there is a gap before it.
  const points = path => {
    let [x, y] = [0, 0];
    const unit = Number(path.dataset.unit);
    const value = steps => 'log' in path.dataset ? 10 ** (steps * unit) : steps * unit;
    return path.getAttribute('d').match(/[^Mm]+/g).flatMap(piece => {
      const numbers = piece.match(/-?\d+/g).map(Number);
      return Array.from({ length: numbers.length / 2 }, (_, i) => {
        x += numbers[2 * i];
        y += numbers[2 * i + 1];
        return [x, value(y), i === 0];
      });
    });
  };
  // Returns the value at a time: that of the last point before it, or between two points.
  const at = (curve, time) => {
    const next = curve.findIndex(([x]) => x > time);
    if (next === 0 || (next < 0 && time > curve.at(-1)[0] + 1)) return null;
    if (next < 0) return curve.at(-1)[1];
    if (curve[next][2]) return null;
    const [[x0, y0], [x1, y1]] = [curve[next - 1], curve[next]];
    return y0 + (y1 - y0) * (time - x0) / (x1 - x0);
  };
  const digits = value => {
    const size = Math.abs(value);
    return size >= 100 ? value.toFixed(0) : size >= 1 || size === 0 ? value.toFixed(1) : value.toPrecision(2);
  };
  // Returns the step between ticks, at most six of which are in this view.
  const step = ([from, to]) => {
    const power = 10 ** Math.floor(Math.log10((to - from) / 6));
    return [1, 2, 5, 10].map(n => n * power).find(n => Math.floor(to / n) - Math.ceil(from / n) < 6);
  };
  const range = text => text.split(' ').map(Number);

  const open = timeline => {
    if (timeline.dataset.ready) return;
    timeline.dataset.ready = 'yes';
    const over = timeline.querySelector('.over');
    const full = range(timeline.dataset.full);
    const migration = range(timeline.dataset.view);
    const curves = all('path[data-name]', timeline).map(path => ({
      name: path.dataset.name === 'pass' ? 'pass'
        : `${path.closest('.lane').querySelector('b').textContent}: ${path.dataset.name}`,
      whole: path.dataset.name === 'pass',
      points: points(path),
    }));
    let view = migration;
    let time = 0;
    const readout = make('p', { className: 'readout hint' },
      'Point at a curve to read its values, drag to zoom in.');
    const draw = (name, parent) => {
      const element = document.createElementNS(SVG, name);
      parent.append(element);
      return element;
    };
    const chosen = draw('rect', over);
    chosen.setAttribute('class', 'chosen');
    chosen.setAttribute('height', 1);
    const cursor = draw('path', over);
    cursor.setAttribute('class', 'cursor');

    const look = ([from, to]) => {
      const least = Math.min(20, full[1] - full[0]);
      const width = Math.min(Math.max(to - from, least), full[1] - full[0]);
      from = Math.min(Math.max(from, full[0]), full[1] - width);
      view = [from, from + width];
      const percent = ms => `${((ms - from) / width * 100).toFixed(2)}%`;
      all('.curves, .boxes, .over', timeline).forEach(svg => {
        const box = svg.getAttribute('viewBox').split(' ');
        svg.setAttribute('viewBox', [from, box[1], width, box[3]].join(' '));
      });
      all('.flags text', timeline).forEach(text => text.setAttribute('x', percent(text.dataset.from)));
      all('.bands', timeline).forEach(band => {
        const boxes = all('rect', band);
        all('text', band).forEach((text, i) => {
          const [x, length] = ['x', 'width'].map(name => Number(boxes[i].getAttribute(name)));
          const [begin, end] = [Math.max(x, from), Math.min(x + length, view[1])];
          text.setAttribute('x', percent((begin + end) / 2));
          text.toggleAttribute('hidden', end - begin < 0.12 * width);
        });
      });
      const ticks = timeline.querySelector('.ticks');
      all('text:not(.title)', ticks).forEach(text => text.remove());
      const by = step(view);
      for (let ms = Math.ceil(from / by) * by; ms <= view[1]; ms += by) {
        const text = draw('text', ticks);
        text.setAttribute('x', percent(ms));
        text.setAttribute('y', 16);
        text.textContent = String(Number((ms / 1000).toFixed(3)));
      }
    };
    const point = ms => {
      time = Math.min(Math.max(ms, full[0]), full[1]);
      if (time < view[0] || time > view[1]) {
        look([time - (view[1] - view[0]) / 2, time + (view[1] - view[0]) / 2]);
      }
      cursor.setAttribute('d', `M${time} 0V1`);
      const values = curves.map(curve => {
        const value = at(curve.points, time);
        return [curve.name, value !== null && curve.whole ? Math.floor(value) : value, curve.whole];
      });
      const known = values.filter(([, value]) => value !== null);
      const texts = known.map(([name, value, whole]) => `${name} ${whole ? value : digits(value)}`);
      say(readout, [`${(time / 1000).toFixed(3)} s`, ...texts].join('; '));
      over.setAttribute('aria-valuenow', Math.round(time));
      over.setAttribute('aria-valuetext', readout.textContent);
    };
    const zoom = (factor, around = (view[0] + view[1]) / 2) =>
      look([around - (around - view[0]) * factor, around + (view[1] - around) * factor]);
    const when = event => {
      const box = over.getBoundingClientRect();
      return view[0] + (event.clientX - box.left) / box.width * (view[1] - view[0]);
    };

    over.setAttribute('tabindex', 0);
    over.setAttribute('role', 'slider');
    over.setAttribute('aria-label', 'Time since the start of the migration, in milliseconds');
    over.setAttribute('aria-valuemin', Math.round(full[0]));
    over.setAttribute('aria-valuemax', Math.round(full[1]));
    over.setAttribute('aria-valuenow', 0);
    let began = null;
    over.addEventListener('pointerdown', event => {
      began = when(event);
      over.setPointerCapture(event.pointerId);
    });
    over.addEventListener('pointermove', event => {
      point(when(event));
      if (began === null) return;
      chosen.setAttribute('x', Math.min(began, time));
      chosen.setAttribute('width', Math.abs(time - began));
    });
    over.addEventListener('pointerup', event => {
      const [from, to] = [Math.min(began, when(event)), Math.max(began, when(event))];
      if (to - from > (view[1] - view[0]) / 50) look([from, to]);
      began = null;
      chosen.setAttribute('width', 0);
    });
    over.addEventListener('focus', () => point(time));
    over.addEventListener('keydown', event => {
      const by = (view[1] - view[0]) / (event.shiftKey ? 10 : 100);
      const moves = { ArrowRight: by, ArrowUp: by, ArrowLeft: -by, ArrowDown: -by };
      if (event.key in moves) point(time + moves[event.key]);
      else if (event.key === 'Home') point(view[0]);
      else if (event.key === 'End') point(view[1]);
      else if (event.key === '+' || event.key === '=') zoom(0.5, time);
      else if (event.key === '-') zoom(2, time);
      else if (event.key === '0') look(migration);
      else return;
      event.preventDefault();
    });

    const numbers = make('div');
    const rows = () => {
      const row = (curve, [x, y]) => [curve.name, String(x), String(Number(y.toPrecision(6)))];
      const values = curves.flatMap(curve => curve.points.map(point => row(curve, point)));
      return [['curve', 'ms since start', 'value'], ...values];
    };
    const toggle = button => {
      if (numbers.childNodes.length) {
        numbers.replaceChildren();
      } else {
        const row = (texts, i) => make('tr', {}, ...texts.map(text => make(i ? 'td' : 'th', {}, text)));
        const [head, ...body] = rows().map(row);
        const table = make('table', {}, make('thead', {}, head), make('tbody', {}, ...body));
        sortable(table);
        numbers.append(make('div', { className: 'scroll', tabIndex: 0 }, table));
      }
      button.setAttribute('aria-expanded', numbers.childNodes.length > 0);
    };
    const button = (text, act) => {
      const element = make('button', { type: 'button' }, text);
      element.addEventListener('click', () => act(element));
      return element;
    };
    const name = timeline.closest('.attempt').id;
    timeline.prepend(make('div', { className: 'tools' },
      button('Zoom in', () => zoom(0.5, time >= view[0] && time <= view[1] ? time : undefined)),
      button('Zoom out', () => zoom(2)),
      button('Migration', () => look(migration)),
      button('Whole attempt', () => look(full)),
      button('Numbers', toggle),
      button('CSV', () => save(`${name}.csv`, rows()))), readout);
    timeline.append(numbers);
  };

  // Puts in a timeline that is compressed, and prepares it.
  const unpack = async place => {
    const packed = document.getElementById(place.dataset.pack).content.textContent.trim();
    const bytes = Uint8Array.from(atob(packed), character => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate-raw'));
    const pieces = (await new Response(stream).text()).split('\x1e');
    const template = make('template', { innerHTML: pieces[Number(place.dataset.at)] });
    place.replaceChildren(template.content);
    place.removeAttribute('data-pack');
    all('.timeline', place).forEach(open);
  };
  const show = details => {
    all('.timeline', details).forEach(open);
    all('[data-pack]', details).forEach(unpack);
  };

  // Prepares everything below an element that has just become part of the page.
  const prepare = root => {
    all('table[id]:not([data-fixed])', root).forEach(sortable);
    all('[data-marks] + .readout:empty', root).forEach(readout => {
      readout.classList.add('hint');
      readout.textContent = 'Point at a mark to read its value.';
    });
    all('[data-marks] .area', root).forEach(area => marksOf(area)[0]?.setAttribute('tabindex', 0));
    all('.attempt[open]', root).forEach(show);
  };
  const reveal = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (target && target.matches('.attempt')) target.open = true;
  };
  document.addEventListener('click', event => {
    const head = event.target.closest('th button')?.parentNode;
    if (head) sort(head);
    const table = event.target.closest('[data-csv]')?.dataset.csv;
    if (table) saveTable(document.getElementById(table));
  });
  document.addEventListener('input', event => {
    if (event.target.matches('[data-filter]')) filter(event.target);
  });
  document.addEventListener('focusin', event => {
    if (event.target.matches('.mark, .sign')) tell(event.target);
  });
  document.addEventListener('pointerover', event => {
    const mark = event.target.closest('.mark[role], .sign[role]');
    if (mark) tell(mark);
  });
  document.addEventListener('keydown', event => {
    if (!event.target.matches('.mark, .sign')) return;
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (by) {
      event.preventDefault();
      move(event.target, by);
    }
  });
  document.addEventListener('toggle', event => {
    if (event.target.matches('.attempt[open]')) show(event.target);
  }, true);
  window.addEventListener('hashchange', reveal);
  // For a page that is kept up to date: prepares what has just been put in.
  window.prepareReport = prepare;
  prepare(document);
  reveal();
})();
