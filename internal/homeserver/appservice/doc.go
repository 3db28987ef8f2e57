// SPDX-License-Identifier: Apache-2.0

// Package appservice serves bots and bridges. It reads their registrations and finds one by its token, within the tenant that it is registered
// with, which package account asks it for; it tells each of them what concerns it, as a consumer of the tenant's stream with a position of its
// own (engine rule 32); it asks them about users, aliases and their networks.
// Specification: application-service API v1.19; MSC2409 and MSC3202 for encryption.
package appservice
