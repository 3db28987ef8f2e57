// SPDX-License-Identifier: Apache-2.0

// Package limits measures what the parts that Konsil stands on can do at best on this machine: the disk's flush, the database with the rows of
// a message and nothing around them, the signature. It is the only package of the benches that imports internal/. Bench sets its figures
// beside what the whole server reached; nothing else uses it.
package limits
