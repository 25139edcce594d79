// CoreDNS with those plugins that the Corefile of kubeadm names: a tenth of what the usual build compiles.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/loop"
	_ "github.com/coredns/coredns/plugin/metrics"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
)

func main() {
	// The order in which a query passes them, as in CoreDNS's own plugin.cfg; those that do not handle queries are before the others.
	dnsserver.Directives = []string{
		"reload", "ready", "health", "prometheus", "errors", "loop", "loadbalance", "cache", "kubernetes", "forward",
	}
	coremain.Run()
}
