// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"fmt"
	"net/url"
	"strings"
)

// endpoint is a route with its variables' names in the order of the path.
type endpoint struct {
	Route
	names []string
}

// node is one segment of the paths of the table. A literal is preferred to a variable, a variable to the rest.
type node struct {
	literal  map[string]*node
	variable *node
	rest     map[string]*endpoint // by method
	here     map[string]*endpoint // by method
}

func (n *node) add(r Route) {
	e := &endpoint{Route: r}
	segments := strings.Split(strings.TrimSuffix(strings.TrimPrefix(r.Path, "/"), "/"), "/")
	if r.Path == "/" {
		segments = nil
	}
	at := n
	for i, s := range segments {
		name, isVariable := strings.CutPrefix(s, "{")
		if !isVariable {
			at = at.child(s)
			continue
		}
		name = strings.TrimSuffix(name, "}")
		if rest, ok := strings.CutSuffix(name, "..."); ok {
			if i != len(segments)-1 {
				panic(fmt.Sprintf("httpapi: %s: %s is not at the end", r.Path, s))
			}
			e.names = append(e.names, rest)
			at.rest = put(at.rest, e)
			return
		}
		e.names = append(e.names, name)
		if at.variable == nil {
			at.variable = &node{}
		}
		at = at.variable
	}
	at.here = put(at.here, e)
}

func (n *node) child(s string) *node {
	if n.literal == nil {
		n.literal = map[string]*node{}
	}
	c := n.literal[s]
	if c == nil {
		c = &node{}
		n.literal[s] = c
	}
	return c
}

func put(m map[string]*endpoint, e *endpoint) map[string]*endpoint {
	if m == nil {
		m = map[string]*endpoint{}
	}
	if other := m[e.Method]; other != nil {
		panic(fmt.Sprintf("httpapi: %s %s and %s are the same route", e.Method, e.Path, other.Path))
	}
	m[e.Method] = e
	return m
}

// search is one walk through the tree. It goes on where a path matches but not its method, so that a literal never hides the variable beside it.
type search struct {
	method   string
	vars     []string
	found    *endpoint
	anything bool // some route has the path, with another method
}

// find returns the route of an escaped path and its variables, decoded segment by segment, so that an encoded slash stays inside its segment.
// otherMethod says that the path exists with other methods.
func (n *node) find(method, escapedPath string) (e *endpoint, vars []string, otherMethod bool) {
	path := strings.TrimSuffix(strings.TrimPrefix(escapedPath, "/"), "/")
	var segments []string
	if path != "" {
		segments = strings.Split(path, "/")
	}
	for i, s := range segments {
		if strings.Contains(s, "%") {
			decoded, err := url.PathUnescape(s)
			if err != nil {
				return nil, nil, false
			}
			segments[i] = decoded
		}
	}
	s := search{method: method}
	s.walk(n, segments)
	return s.found, s.vars, s.anything
}

func (s *search) walk(n *node, segments []string) bool {
	if len(segments) == 0 {
		return s.take(n.here) || s.takeRest(n.rest, nil)
	}
	if c := n.literal[segments[0]]; c != nil && s.walk(c, segments[1:]) {
		return true
	}
	if n.variable != nil && segments[0] != "" {
		s.vars = append(s.vars, segments[0])
		if s.walk(n.variable, segments[1:]) {
			return true
		}
		s.vars = s.vars[:len(s.vars)-1]
	}
	return s.takeRest(n.rest, segments)
}

func (s *search) take(m map[string]*endpoint) bool {
	if len(m) == 0 {
		return false
	}
	s.anything = true
	s.found = m[s.method]
	if s.found == nil && s.method == "HEAD" {
		s.found = m["GET"]
	}
	return s.found != nil
}

func (s *search) takeRest(m map[string]*endpoint, segments []string) bool {
	if !s.take(m) {
		return false
	}
	s.vars = append(s.vars, strings.Join(segments, "/"))
	return true
}
