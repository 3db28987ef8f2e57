// SPDX-License-Identifier: Apache-2.0

// Package directory is the national directory (VZD-FHIR-Directory): FHIR R4 entries of people and organisations with search as its users' interface
// has it, owners who add and remove their messenger address, and the exchange of a Matrix OpenID token for a search token. It owns the
// directory_* tables, which belong to the central services and to no tenant. Clients ask it over HTTP, the federation list and registration ask
// whether an organisation is active, the demo fills it with a seeded generator. It knows no Matrix room and asks homeservers only
// through the function handed in.
package directory
