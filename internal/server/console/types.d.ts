// What the daemon sends: see the Go types of the same names.

export interface Key {
  namespace: string; identifier: string; per_second: number; error: number;
  policy?: string; limit?: string; since?: string;
}

export interface Series {
  kind: "all" | "namespace" | "limit" | "inline" | "envoy" | "failure";
  namespace: string; policy?: string; limit?: string;
  asked_per_second: number; denied_per_second: number;
  denied_since?: string; denied_last?: string; denying: boolean;
  asked_steps?: number[]; denied_steps?: number[];
}

export interface Denial extends Series {
  rule?: string; shadow: boolean; identifiers: Key[]; more_identifiers: number;
}

export interface Daemon {
  version: string; started: string; store: string; on_error: string;
  store_errors: number; servers_gone: number; has_breaker: boolean;
  keys: number; max_keys: number; bytes: number; evictions: number; evictions_shut: number;
  shards: number; lock_acquisitions: number; lock_contentions: number; lock_wait_seconds: number; hottest_lock_acquisitions: number;
  deny_cache_hits: number; process_bytes: number; refused_requests: number; panics: number;
}

export interface Overview {
  at: string; step_seconds: number; steps_shown: number;
  daemon: Daemon;
  configuration: { version: string; since?: string; refused?: string; refused_at?: string; namespaces: number; policies: number; domains: number; domain_names: string[] };
  all: Series;
  latency: { p50: number; p99: number; p50_steps: number[]; p99_steps: number[] };
  denied: Denial[]; denied_left_out: number;
  series: Series[]; series_left_out: number;
  asked: Key[];
}

export interface LimitAnswer {
  limit: string; rule: string; shadow: boolean; unlimited: boolean;
  most: number; remaining: number; debt: number; allowed: boolean;
  reset_after_seconds: number; retry_after_seconds: number | null; never: boolean;
}

export interface PolicyAnswer {
  policy: string; rule?: string; quota?: boolean; override?: string; problem?: string; allowed: boolean; outcome: string;
  limits: LimitAnswer[]; retry_after_seconds: number | null; never: boolean;
}

export interface Finding {
  namespace: string; identifier: string; cost: number; on_error: string;
  exempt: string | null; policies: PolicyAnswer[]; left_out: number;
}

export interface Problem { line: number; column: number; text: string; source: string }

export interface Verdict {
  kind: string; problems: Problem[]; warnings: string[];
  namespaces: { name: string; policies: string[] }[];
}

export interface Trials { trials: (Finding & { at_once: number | null })[] }
