// SPDX-License-Identifier: Apache-2.0

// Package browser is a small browser without a screen: it follows redirections, keeps cookies by host, and fills in the forms and follows the links that
// stand on a page, and no others. The tour and tests sign people in with it as they would themselves. It runs no scripts.
package browser
