// SPDX-License-Identifier: Apache-2.0

// Package admin is what a tenant's administrators do by the API that the tools of the field speak, under /_synapse/admin: users, devices, rooms. Every
// answer is about the caller's own tenant alone; shapes and errors are those that such tools expect.
package admin
