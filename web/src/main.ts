document.getElementById("attnviz")!.textContent = "attnviz";
