#!/usr/bin/perl
# An MCP server on pipes, for the trials: a tool which starts tcpdump and does not wait for it, and one that does
# nothing.
use strict;
use warnings;
$| = 1;
$SIG{CHLD} = 'IGNORE';

sub answer { print qq({"jsonrpc":"2.0","id":$_[0],"result":$_[1]}\n) }

while (my $line = <STDIN>) {
    my ($id) = $line =~ /"id":\s*("[^"]*"|\d+)/ or next;
    if ($line =~ /"initialize"/) {
        answer $id, '{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"trial","version":"1"}}';
    } elsif ($line =~ m{"tools/list"}) {
        answer $id, '{"tools":[{"name":"capture","inputSchema":{"type":"object","properties":{"interface":{"type":"string"}}}},'
            . '{"name":"rare","inputSchema":{"type":"object"}}]}';
    } elsif ($line =~ /"rare"/) {
        answer $id, '{"content":[{"type":"text","text":"done"}]}';
    } elsif ($line =~ m{"tools/call"}) {
        my ($interface) = $line =~ /"interface":\s*"(\w+)"/;
        if (!fork) {
            open STDIN, '<', '/dev/null';
            open STDOUT, '>', '/dev/null';
            exec 'tcpdump', '--immediate-mode', '-U', '-n', '-i', $interface, '-w', $ENV{CAPTURES} . '/trial.pcap';
        }
        answer $id, '{"content":[{"type":"text","text":"started"}]}';
    }
}
