// SPDX-License-Identifier: Apache-2.0

// Package observe owns what a running node shows of itself: the structured log (slog), the metrics registry (Prometheus) and health. Everything
// is a value made by the composition root; there are no globals, so that many nodes live in one test process. Log lines carry neither content
// nor tokens, and every Matrix user id that reaches the log, in whatever attribute, is replaced by a keyed pseudonym. Nothing here decides
// anything.
package observe
