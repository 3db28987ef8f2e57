// SPDX-License-Identifier: Apache-2.0

// Package database is the one seam to SQLite and PostgreSQL. It owns the connections, transactions, the statement cache and the one list of
// numbered migrations for all slices. The same SQL text ($1 placeholders, ON CONFLICT, RETURNING) runs on both; slices keep their SQL next to
// the function that runs it. Package stream uses the [Pipeline] for grouped commits; everybody else reads with Query and writes bulk data and
// bookkeeping with Write. The package knows no table of any slice and never takes a tenant's position.
package database
