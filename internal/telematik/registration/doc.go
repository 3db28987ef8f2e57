// SPDX-License-Identifier: Apache-2.0

// Package registration is a provider's registration service (Registrierungs-Dienst): an organisation that card issuers have entered in the
// directory proves itself with its SMC-B and gets a messenger under its own domain, which is put on the federation list; insurers may order a
// service for insured people. It also vouches for an organisation's administrator towards the directory (RegService-OpenID-Token). It
// creates tenants through tenant.Store; accounts are made and sessions checked by functions handed in: how an administrator signs in is not
// decided here.
package registration
