// One dashboard, drawn with Grafana's own components.
//
// Owns the grid and the choice of component for each type of panel. Never asks Prometheus: `answers.json` holds what
// a running network answered.

import { useMemo } from 'react';
import { createRoot } from 'react-dom/client';
import {
  VizOrientation,
  applyFieldOverrides,
  createTheme,
  dateTime,
  fieldReducers,
  getFieldDisplayName,
  getDisplayProcessor,
} from '@grafana/data';
import {
  BarGauge,
  BigValue,
  GlobalStyles,
  PanelChrome,
  PortalContainer,
  ThemeContext,
  TimeSeries,
} from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import { initPluginTranslations } from '@grafana/i18n';
import { frames, organized } from './answers.js';

const COLUMN = 64;
const ROW = 38;
const GAP = 8;
const NO_THRESHOLDS = { mode: 'absolute', steps: [{ value: -Infinity, color: 'green' }] };
const theme = createTheme({ colors: { mode: 'light' } });

const last = (field) => fieldReducers.get('lastNotNull').reduce(field, true, true).lastNotNull;

// Grafana gives each field its settings before a panel sees it.
const configured = (panel, data) => {
  const { defaults, overrides } = panel.fieldConfig;
  if (overrides?.length) throw new Error(`overrides, which pictures do not know: ${panel.title}`);
  const color = { mode: panel.type === 'timeseries' ? 'palette-classic' : 'thresholds' };
  const settings = { color, thresholds: NO_THRESHOLDS, ...defaults };
  const set = ({ config, ...field }) => ({ ...field, config: { ...settings, ...config } });
  return applyFieldOverrides({
    data: data.map((frame) => ({ ...frame, fields: frame.fields.map(set) })),
    fieldConfig: { defaults: {}, overrides: [] },
    replaceVariables: (text) => text,
    theme,
    timeZone: 'utc',
  });
};

const values = (data) =>
  data.flatMap((frame) =>
    frame.fields
      .filter((field) => field.type === 'number')
      .map((field) => ({
        field,
        value: { ...field.display(last(field)), title: getFieldDisplayName(field, frame, data) },
      })),
  );

const Empty = ({ noValue }) => <div className="empty">{noValue ?? 'No data'}</div>;

const Stat = ({ data, width, height }) => {
  const shown = values(data);
  return shown.map(({ value }, at) => (
    <BigValue
      key={at}
      value={{ ...value, title: shown.length > 1 ? value.title : undefined }}
      width={width / shown.length}
      height={height}
      theme={theme}
      colorMode="value"
      graphMode="none"
    />
  ));
};

const Bars = ({ data, width, height }) => {
  const shown = values(data);
  const each = Math.min(48, height / shown.length);
  return shown.map(({ field, value }, at) => (
    <BarGauge
      key={at}
      value={value}
      field={field.config}
      display={field.display ?? getDisplayProcessor({ field, theme })}
      width={width}
      height={each - 6}
      orientation={VizOrientation.Horizontal}
      displayMode="gradient"
      theme={theme}
    />
  ));
};

const Lines = ({ panel, data, width, height, range }) => (
  <TimeSeries
    frames={data}
    timeRange={range}
    timeZone="utc"
    width={width}
    height={height}
    legend={{ showLegend: true, displayMode: 'list', placement: 'bottom', calcs: [], ...panel.options?.legend }}
  />
);

const Rows = ({ panel, data, width, height }) => (
  <TableNG data={organized(data[0], panel.transformations)} width={width} height={height} />
);

const BODIES = { stat: Stat, bargauge: Bars, timeseries: Lines, table: Rows };

const Body = ({ panel, answers, range, width, height }) => {
  const data = useMemo(() => configured(panel, frames(panel.targets, answers)), [panel, answers]);
  if (!data.some((frame) => frame.length)) return <Empty noValue={panel.fieldConfig.defaults.noValue} />;
  const Drawn = BODIES[panel.type];
  if (!Drawn) throw new Error(`a panel type that pictures do not know: ${panel.type}`);
  return <Drawn panel={panel} data={data} range={range} width={width} height={height} />;
};

const place = ({ x, y, w, h }) => ({
  position: 'absolute',
  left: x * COLUMN,
  top: y * ROW,
  width: w * COLUMN - GAP,
  height: h * ROW - GAP,
});

const Panel = ({ panel, answers, range }) => {
  const { width, height } = place(panel.gridPos);
  if (panel.type === 'row') return <h5 style={place(panel.gridPos)}>{panel.title}</h5>;
  return (
    <div style={place(panel.gridPos)}>
      <PanelChrome title={panel.title} description={panel.description} width={width} height={height}>
        {(innerWidth, innerHeight) => (
          <Body panel={panel} answers={answers} range={range} width={innerWidth} height={innerHeight} />
        )}
      </PanelChrome>
    </div>
  );
};

const Dashboard = ({ dashboard, answers, from, to }) => {
  const range = { from: dateTime(from * 1000), to: dateTime(to * 1000), raw: { from: 'now-6h', to: 'now' } };
  const bottom = Math.max(...dashboard.panels.map(({ gridPos }) => gridPos.y + gridPos.h));
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <PortalContainer />
      <h3>{dashboard.title}</h3>
      <div style={{ position: 'relative', width: 24 * COLUMN, height: bottom * ROW }}>
        {dashboard.panels.map((panel) => (
          <Panel key={panel.id} panel={panel} answers={answers[panel.id] ?? []} range={range} />
        ))}
      </div>
    </ThemeContext.Provider>
  );
};

await initPluginTranslations('dit-pictures');
const told = await (await fetch(`/told/${new URLSearchParams(location.search).get('of')}.json`)).json();
createRoot(document.getElementById('dashboard')).render(<Dashboard {...told} />);
