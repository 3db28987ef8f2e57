// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strings"
)

// Markdown writes docs/configuration.md.
func Markdown() []byte {
	var b strings.Builder
	b.WriteString(`# Configuration

<!-- Written from internal/foundation/config/keys.go by "make docs". Do not edit. -->

One YAML file, given to ` + "`konsil serve --config FILE`" + `. Each key can also be set by an environment variable, and by ` + "`--set KEY=VALUE`" + ` on the
command line; the command line wins over the environment, the environment over the file, the file over the defaults. In both, lists are
separated by commas, and lists of objects and maps are written as YAML. ` + "`konsil check-config --config FILE`" + ` says what is wrong, with key and line.

A homeserver in plain Matrix mode:

` + "```yaml" + `
policy: open
tenants: [hs1]
data: /var/lib/konsil
listeners:
  client: [":8008"]
  federation:
    - {address: ":8448", certificate: /etc/konsil/hs1.crt, key: /etc/konsil/hs1.key}
registration:
  mode: shared_secret
  secret: change me
` + "```" + `

| key | variable | default | meaning |
|---|---|---|---|
`)
	for _, k := range keys {
		variable, def := "", ""
		if k.settable() {
			variable = "`" + Variable(k.Path) + "`"
		}
		if k.Default != "" {
			def = "`" + k.Default + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", k.Path, variable, def, k.Doc)
	}
	return []byte(b.String())
}
