// SPDX-License-Identifier: Apache-2.0

// Package fhir is what the directory needs of FHIR R4: resources kept as raw JSON with accessors (a struct would lose what it does not know),
// validation of the directory's resource types, the grammar of search parameters, Bundle and OperationOutcome. Package directory calls it. It is
// pure: it stores nothing, asks nobody and knows no time.
package fhir
