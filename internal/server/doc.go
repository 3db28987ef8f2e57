// SPDX-License-Identifier: Apache-2.0

// Package server is the composition root: it turns a configuration into a running node. wire.go joins all packages in one linear function, in
// the order in which data flows; server.go opens the listeners and owns the order of start and stop. A node is a value, so tests boot the real
// thing on free ports and many of them in one process. Nothing here decides anything about rooms, people or organisations.
package server
