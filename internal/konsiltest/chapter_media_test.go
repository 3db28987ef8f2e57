// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"image"
	"image/png"
	"strings"
)

// media: a picture of one server, downloaded and scaled on the other.
func (s *storybook) media() {
	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewGray(image.Rect(0, 0, 200, 100))); err != nil {
		s.t.Fatal(err)
	}
	status, text := s.anna.Raw("POST", "/_matrix/media/v3/upload?filename=bild.png", "image/png", picture.Bytes())
	s.note("upload: %d", status)
	var answer map[string]any
	if err := json.Unmarshal(text, &answer); err != nil {
		s.t.Fatal(err)
	}
	content := strings.TrimPrefix(s.name(answer, "content_uri", "picture"), "mxc://")
	s.names[content] = "<picture>"
	for _, what := range []string{"download/" + content, "download/" + content + "/anders.png", "thumbnail/" + content + "?width=32&height=32&method=crop",
		"thumbnail/" + content + "?width=64&height=64&method=scale", "download/praxis.test/nothing", "thumbnail/praxis.test/nothing?width=32&height=32"} {
		status, body := s.berta.Raw("GET", "/_matrix/client/v1/media/"+what, "", nil)
		if status != 200 {
			body = nil
		}
		s.note("berta gets %s: %d, %x", what, status, sha256.Sum256(body))
	}
	again, body := s.anna.Raw("GET", "/_matrix/client/v1/media/thumbnail/"+content+"?width=32&height=32&method=crop", "", nil)
	s.note("anna gets the same: %d, %x", again, sha256.Sum256(body))
}
