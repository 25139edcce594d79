/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Headers of a packet. They are in the linear part of the buffer, which is all that bpf_skb_load_bytes_relative() can
 * reach; a sender's data is never there.
 */
#ifndef PODLANE_PACKET_H
#define PODLANE_PACKET_H

#include "types.h"

/* Copy from the headers, from the network header on. */
static __always_inline long load(struct __sk_buff *skb, __u32 at, void *to, __u32 size)
{
	return bpf_skb_load_bytes_relative(skb, at, to, size, BPF_HDR_START_NET);
}

static __always_inline void transport(struct __sk_buff *skb, struct packet *packet, __u32 at, __u32 end)
{
	struct tcphdr tcp;
	__u16 both[2];

	if (packet->kind == KIND_UDP && !load(skb, at, both, sizeof(both))) {
		packet->source_port = both[0];
		packet->destination_port = both[1];
		packet->data = at + sizeof(struct udphdr);
		packet->data_length = end > packet->data ? end - packet->data : 0;
	}
	if (packet->kind != KIND_TCP || load(skb, at, &tcp, sizeof(tcp)))
		return;
	packet->source_port = tcp.source;
	packet->destination_port = tcp.dest;
	packet->flags = ((__u8 *)&tcp)[13];
	/* Data in a SYN (Fast Open) stands behind it. */
	packet->sequence = bpf_ntohl(tcp.seq) + !!(packet->flags & FLAG_SYN);
	packet->data = at + tcp.doff * 4;
	packet->data_length = end > packet->data ? end - packet->data : 0;
}

/* Returns 0 for what is not IP. A fragment other than the first has no ports. IPv6 extension headers are not walked:
 * such a packet is of no protocol that a policy names. */
__noinline int read_packet(struct __sk_buff *skb, struct packet *packet)
{
	__u8 protocol;
	__u32 at, end;

	if (!packet)
		return 0;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (load(skb, 0, &ip, sizeof(ip)))
			return 0;
		packet->source[2] = packet->destination[2] = bpf_htonl(0xffff);
		packet->source[3] = ip.saddr;
		packet->destination[3] = ip.daddr;
		packet->version = 4;
		protocol = ip.protocol;
		at = ip.ihl * 4;
		end = bpf_ntohs(ip.tot_len);
		if (ip.frag_off & bpf_htons(0x1fff))
			at = 0;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip;

		if (load(skb, 0, &ip, sizeof(ip)))
			return 0;
		__builtin_memcpy(packet->source, &ip.saddr, 16);
		__builtin_memcpy(packet->destination, &ip.daddr, 16);
		packet->version = 6;
		protocol = ip.nexthdr;
		at = sizeof(ip);
		end = sizeof(ip) + bpf_ntohs(ip.payload_len);
	} else {
		return 0;
	}
	packet->kind = KIND_OTHER;
	if (protocol == IPPROTO_TCP)
		packet->kind = KIND_TCP;
	else if (protocol == IPPROTO_UDP)
		packet->kind = KIND_UDP;
	else if (protocol == (packet->version == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6))
		packet->kind = KIND_ICMP;
	if (at)
		transport(skb, packet, at, end);
	return 1;
}

#endif
