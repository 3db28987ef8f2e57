// SPDX-License-Identifier: Apache-2.0

// Package oauth makes every tenant an OAuth 2.0 authorisation server as the client-server API asks for it ("OAuth 2.0 API"): metadata, registration
// of clients, the authorisation code and device grants with the pages on which people sign in and agree, refreshing and revoking, and the pages on
// which they manage their account. It signs in for single sign-on (m.login.sso) and keeps the meeting points of sign-in by QR code too.
//
// What it issues are ordinary sessions of package account; what it keeps itself are clients, codes and the browsers that are signed in. On a client
// host that all tenants share nothing names a tenant before somebody has typed @user:server: clients and device codes made there belong to the cell
// (tenant 0) until then. The issuer is always the host that was asked.
package oauth
