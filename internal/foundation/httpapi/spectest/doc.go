// SPDX-License-Identifier: Apache-2.0

// Package spectest holds every exchange that tests make with a node against the Matrix specification's OpenAPI files: an answer must fit its
// operation's schema for that status (an error the standard error), and what was accepted must have been a request that the specification allows.
// The files are read where the reference data lies (KONSIL_REFERENCE, or ../shared/reference beside the checkout); without them nothing is checked
// and [Folder] says so. Only tests import it.
package spectest
