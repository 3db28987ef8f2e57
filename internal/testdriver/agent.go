// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package testdriver

import (
	"net/http"
	"strings"
)

// Agent is what a client says of itself to every server (A_23104-01).
type Agent struct {
	// ProductType is the version of the specification that the client follows, Product its own.
	ProductType, Product string
	// OS and OSVersion are what it runs on.
	OS, OSVersion string
	// ClientID is what the identity provider knows it by.
	ClientID string
}

// header is the value of User-Agent: a comma parts two fields, so that none may stand in one.
func (a Agent) header(admin bool) string {
	kind := "Messenger-Client"
	if admin {
		kind = "Org-Admin-Client"
	}
	fields := []string{a.ProductType, a.Product, kind, "stationaer", a.OS, a.OSVersion, a.ClientID}
	for i, f := range fields {
		fields[i] = strings.ReplaceAll(f, ",", " ")
	}
	return strings.Join(fields, ",")
}

// naming sends every request with the client's name.
type naming struct {
	next   http.RoundTripper
	header string
}

// CloseIdleConnections lets http.Client end what a device has left open.
func (n naming) CloseIdleConnections() {
	if c, ok := n.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// RoundTrip implements http.RoundTripper.
func (n naming) RoundTrip(r *http.Request) (*http.Response, error) {
	named := r.Clone(r.Context())
	named.Header.Set("User-Agent", n.header)
	return n.next.RoundTrip(named)
}
