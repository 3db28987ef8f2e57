// SPDX-License-Identifier: Apache-2.0

// Package webpage holds what the pages for people have in common: their look, the header that keeps them safe, the proof in their forms, and the secret of an
// authenticator app as a picture.
package webpage
