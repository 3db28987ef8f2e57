// SPDX-License-Identifier: Apache-2.0

// Package mxerror holds the standard error codes of the Matrix APIs as comparable values.
//
// Every layer returns them, wrapped with %w where context helps; httpapi turns what it finds with From
// into the HTTP answer. The package knows nothing of HTTP beyond the status number and never logs.
// Specification: client-server API, "Standard error response".
package mxerror
