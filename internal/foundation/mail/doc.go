// SPDX-License-Identifier: Apache-2.0

// Package mail hands messages to a mail server by SMTP. It knows nothing of who writes to whom: package account uses it to prove that an address
// belongs to somebody, and to reset passwords.
package mail
