// SPDX-License-Identifier: Apache-2.0

// Package config owns the one configuration value of a node: read from a YAML file, the environment (KONSIL_…) and flags, in this order, checked
// as a whole, and never changed afterwards. Every error names the key and where its value stands. The table in keys.go is the single source of
// keys, defaults and explanations; docs/configuration.md is written from it. The composition root reads the value and hands each package what it
// needs; no package keeps a global.
package config
