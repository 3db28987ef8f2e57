// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"net/url"
	"slices"
	"strings"
)

// checkRedirects checks where the client wants its answers (client-server API, "Redirect URI validation").
func (g *registration) checkRedirects() *failure {
	switch {
	case len(g.Redirects) == 0 && g.may(grantCode):
		return fail(invalidRedirect, "redirect_uris is needed for the grant type authorization_code")
	case len(g.Redirects) > maxRedirects:
		return fail(invalidRedirect, "more than %d redirect_uris", maxRedirects)
	}
	home, _ := secureAddress(g.ClientURI)
	for _, address := range g.Redirects {
		if problem := redirectProblem(address, g.ApplicationType, home.Hostname()); problem != "" {
			return fail(invalidRedirect, "a redirect URI %s", problem)
		}
	}
	return nil
}

// redirectProblem says what is wrong with a redirect URI of a client of the given kind whose home is the host; empty for nothing.
func redirectProblem(address, kind, home string) string {
	if len(address) > maxAddress {
		return "is too long"
	}
	if strings.Contains(address, "#") {
		return "must not have a fragment"
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme == "" || strings.ContainsAny(address, " \\\"<>") {
		return "is not an address"
	}
	if kind == nativeApplication {
		switch u.Scheme {
		case "http":
			return loopbackProblem(u)
		case "https":
		default:
			return privateSchemeProblem(address, u.Scheme, home)
		}
	}
	if u, problem := secureAddress(address); problem != "" {
		return problem
	} else if !within(u.Hostname(), home) {
		return "is not on the host of client_uri or below it"
	}
	return ""
}

// loopbackHosts are those on which a native application may listen itself.
var loopbackHosts = []string{"localhost", "127.0.0.1", "::1"}

func loopbackProblem(u *url.URL) string {
	switch {
	case u.User != nil:
		return "must not hold a user or password"
	case !slices.Contains(loopbackHosts, u.Hostname()):
		return "by http must lead to localhost, 127.0.0.1 or [::1]"
	case u.Host != u.Hostname() && u.Host != "["+u.Hostname()+"]":
		return "on the loopback interface must not name a port; any is accepted"
	}
	return ""
}

// privateSchemeProblem checks a scheme that the application has claimed: it begins with the client's domain reversed, so that nobody can take
// another one's.
func privateSchemeProblem(address, scheme, home string) string {
	labels := strings.Split(strings.ToLower(home), ".")
	slices.Reverse(labels)
	reversed := strings.Join(labels, ".")
	switch {
	case len(labels) < 2 || scheme != reversed && !strings.HasPrefix(scheme, reversed+"."):
		return "with a scheme of its own must begin with the reversed domain of client_uri"
	case strings.HasPrefix(address[len(scheme)+1:], "//"):
		return "with a scheme of its own must not name a host"
	}
	return ""
}

// redirectRegistered says whether the client registered the redirect URI: exactly, but with any port on the loopback interface.
func (g *registration) redirectRegistered(address string) bool {
	if slices.Contains(g.Redirects, address) {
		return true
	}
	u, err := url.Parse(address)
	if err != nil || g.ApplicationType != nativeApplication || u.Scheme != "http" || !slices.Contains(loopbackHosts, u.Hostname()) || strings.Contains(address, "#") {
		return false
	}
	u.Host = strings.TrimSuffix(u.Host, ":"+u.Port())
	return slices.Contains(g.Redirects, u.String())
}

// answerAddress adds the parameters of an answer to a redirect URI, as query or fragment.
func answerAddress(redirect, mode string, parameters url.Values) string {
	if mode == "fragment" {
		return redirect + "#" + parameters.Encode()
	}
	separator := "?"
	if strings.Contains(redirect, "?") {
		separator = "&"
	}
	if strings.HasSuffix(redirect, "?") || strings.HasSuffix(redirect, "&") {
		separator = ""
	}
	return redirect + separator + parameters.Encode()
}
