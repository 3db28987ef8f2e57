// SPDX-License-Identifier: Apache-2.0

// Package account owns who a tenant's people are: registration, login, sessions (access and refresh tokens), devices, passwords and
// user-interactive authentication, profiles, account data and tags, filters, OpenID tokens, and what a server says about itself (versions,
// capabilities, well-known documents). httpapi asks it for the session behind a token; room, encryption, clientsync and federation read
// profiles and account data through it. It never touches a room: changed profiles, removed devices and departures go to the hooks in [Options].
package account
