// Prometheus' answers as Grafana's data frames.
//
// Owns names and shapes. Knows nothing of how a panel is drawn.

import { FieldType, createDataFrame } from '@grafana/data';

const named = (pattern, labels) =>
  pattern ? pattern.replace(/{{\s*(\w+)\s*}}/g, (_, label) => labels[label] ?? '') : JSON.stringify(labels);

const number = (text) => (text === 'NaN' ? null : Number(text));

const series = (target, result) => {
  const points = result.values ?? [result.value];
  return createDataFrame({
    name: named(target.legendFormat, result.metric),
    fields: [
      { name: 'Time', type: FieldType.time, values: points.map(([seconds]) => seconds * 1000) },
      {
        name: 'Value',
        type: FieldType.number,
        values: points.map(([, text]) => number(text)),
        config: { displayNameFromDS: named(target.legendFormat, result.metric) },
      },
    ],
  });
};

// One frame with a column for each label, as Grafana's format "table".
const table = (results) => {
  const labels = [...new Set(results.flatMap((result) => Object.keys(result.metric)))].sort();
  return createDataFrame({
    fields: [
      { name: 'Time', type: FieldType.time, values: results.map(({ value }) => value[0] * 1000) },
      ...labels.map((label) => ({
        name: label,
        type: FieldType.string,
        values: results.map(({ metric }) => metric[label] ?? ''),
      })),
      { name: 'Value', type: FieldType.number, values: results.map(({ value }) => number(value[1])) },
    ],
  });
};

export const frames = (targets, answers) =>
  targets.flatMap((target, at) => {
    const results = answers[at] ?? [];
    if (target.format === 'table') return results.length ? [table(results)] : [];
    return results.map((result) => series(target, result));
  });

export const organized = (frame, transformations = []) =>
  transformations.reduce((kept, { id, options }) => {
    if (id !== 'organize') throw new Error(`a transformation that pictures do not know: ${id}`);
    const fields = kept.fields
      .filter((field) => !options.excludeByName?.[field.name])
      .map((field) => ({ ...field, name: options.renameByName?.[field.name] || field.name }));
    return { ...kept, fields };
  }, frame);
