// SPDX-License-Identifier: Apache-2.0

// Package matrixtest makes rooms for tests: seeded, reproducible graphs of signed events with forks, bans, level
// changes, knocks, restricted joins, third-party invites, creators and deliberate mistakes.
//
// Only tests import it. It judges events by authrule and resolves forks by stateres, so a test that doubts these
// compares each verdict and each resolution with something else (a literal transcription, another implementation).
package matrixtest
