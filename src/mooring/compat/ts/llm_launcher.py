from mooring.backends.handler.absent import launch_llm as main

if __name__ == "__main__":
    main()
