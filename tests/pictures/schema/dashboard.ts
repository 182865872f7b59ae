// What a dashboard file is to Grafana, for a JSON schema of it.
import type { Dashboard } from '@grafana/schema/dist/types/raw/dashboard/x/types.gen';

export type GrafanaDashboard = Dashboard;
