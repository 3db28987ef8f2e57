// SPDX-License-Identifier: Apache-2.0

// Package oracle compares Konsil's protocol core with two independent implementations, gomatrixserverlib and
// mautrix-go, on generated rooms and generated JSON. It holds tests only and is a module of its own, so that
// neither becomes a dependency of the program.
//
// mautrix's part needs GOEXPERIMENT=jsonv2; without it that part is left out. Where implementations differ, the
// test says which one follows the specification's text, and why the difference is known.
package oracle
