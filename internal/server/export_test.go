// SPDX-License-Identifier: Apache-2.0

package server

import "github.com/konsil-health/konsil/internal/foundation/httpapi"

// Routes is the node's whole route table, for tests that walk it.
func (s *Server) Routes() []httpapi.Route { return s.node.router.Routes() }
