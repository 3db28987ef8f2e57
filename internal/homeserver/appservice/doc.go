// SPDX-License-Identifier: Apache-2.0

// Package appservice owns the registrations of application services (bots and bridges): it reads their files and finds one by its token, within
// the tenant that it is registered with. Package account asks it who a token belongs to. It does not send events to them yet.
// Specification: application-service API, "Registration".
package appservice
