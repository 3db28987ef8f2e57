// SPDX-License-Identifier: Apache-2.0

// Package console is what an organisation's people see of its messenger's administration in a browser: registering with the institution's card
// or by KIM, and afterwards the people, bots, directory entries, settings and the contract (I_Registration and I_Admin, dossier §6 and §7.9).
// Pages are rendered here and need no script. Administrators sign in with password and second factor; sessions of the console are its own, and
// what administrators do is written down. Beside it stands SCIM 2.0 for an organisation's own user administration.
package console
