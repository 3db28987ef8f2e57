// SPDX-License-Identifier: Apache-2.0

// Package browsertest drives a real Chromium in tests: pages with scripts, storage and content security policy, pressed and filled in as a person does it.
// It speaks the DevTools protocol (https://chromedevtools.github.io/devtools-protocol/) over a pipe, so it needs no port and no library. Only tests
// import it; a test is left out, and says how to install Chromium, where there is none.
package browsertest
