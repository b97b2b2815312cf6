# bash completion for echod; made by tests/support/completions.py
_echod() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
    # readline splits words at "=".
    if [[ $word == = ]]; then
        word=
    elif [[ $before == = ]]; then
        before=${COMP_WORDS[COMP_CWORD-2]}
    fi
    case $before in
        --tls-client-auth)
            COMPREPLY=($(compgen -W 'off request require' -- "$word"))
            return ;;
        --tls-client-ca)
            COMPREPLY=($(compgen -f -- "$word"))
            return ;;
        --tls-min)
            COMPREPLY=($(compgen -W '1.2 1.3' -- "$word"))
            return ;;
        --tls-keylog)
            COMPREPLY=($(compgen -f -- "$word"))
            return ;;
        --proxy-protocol)
            COMPREPLY=($(compgen -W 'off optional require' -- "$word"))
            return ;;
        --log-level)
            COMPREPLY=($(compgen -W 'debug info warn error' -- "$word"))
            return ;;
        --log-format)
            COMPREPLY=($(compgen -W 'text json' -- "$word"))
            return ;;
        --access-log)
            COMPREPLY=($(compgen -W 'on off' -- "$word"))
            return ;;
        --tls-cert)
            COMPREPLY=($(compgen -f -- "$word"))
            return ;;
        --tls-key)
            COMPREPLY=($(compgen -f -- "$word"))
            return ;;
        -p|--port|-i|--interface|--backlog|--tls-port|--udp-port|--tls-alpn|--max-connections|--max-per-client|--connect-rate|--udp-rate|--proxy-header-timeout|--handshake-timeout|--idle-timeout|--max-lifetime|--write-timeout|--drain-timeout|--workers|--listen|--tls-listen|--udp-listen|--admin|--admin-host|--allow|--deny|--proxy-trust)
            return ;;
    esac
    COMPREPLY=($(compgen -W '--tls-self-signed --check --port --interface --backlog --tls-port --udp-port --tls-client-auth --tls-client-ca --tls-min --tls-alpn --tls-keylog --max-connections --max-per-client --connect-rate --udp-rate --proxy-protocol --proxy-header-timeout --handshake-timeout --idle-timeout --max-lifetime --write-timeout --drain-timeout --workers --log-level --log-format --access-log --help --version --listen --tls-listen --udp-listen --admin --admin-host --allow --deny --proxy-trust --tls-cert --tls-key' -- "$word"))
}
complete -F _echod echod
