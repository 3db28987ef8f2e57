// SPDX-License-Identifier: Apache-2.0

package clientsync

// Forget drops everything that a restart drops.
func (s *Service) Forget() { s.forget() }
